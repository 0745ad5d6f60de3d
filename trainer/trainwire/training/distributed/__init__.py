"""The processes that train together, what they agree on, and how a model is divided. May use no other room."""
