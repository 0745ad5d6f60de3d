"""The processes that train together: how they find each other, and what they agree on. May use no other room."""
