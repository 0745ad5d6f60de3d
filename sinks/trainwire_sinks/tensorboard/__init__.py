"""Events as TensorBoard's protocol buffers. Only the sink that needs it imports what imports TensorBoard here."""
