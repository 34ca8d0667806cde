"""The commands: parse arguments, call the layer below, print, exit."""
