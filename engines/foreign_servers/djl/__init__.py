"""DJL Serving: its model folder and our handler in it, what is found of it here, its Python worker behind our front."""
