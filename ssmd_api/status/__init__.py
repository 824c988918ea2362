"""What is going on now: each stream's state, and the newest prices."""
