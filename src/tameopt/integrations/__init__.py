"""tameopt inside people's own training: watch, callbacks and trackers."""
