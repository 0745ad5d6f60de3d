"""Encodes events as records of TensorBoard's event files. Uses the text room.

Only the sink `tensorboard` imports the modules that need TensorBoard, which are `records`, `summaries` and `media`.
"""
