"""Programs that connect rooms: the demo, the walkthrough, training runs."""
