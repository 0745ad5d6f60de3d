"""Encodes events as records of TensorBoard's event files; may use `runtime` and `text`.

Only the sink `tensorboard` imports the modules that need TensorBoard, which are `records`, `summaries`, `media` and
`opaque`.
"""
