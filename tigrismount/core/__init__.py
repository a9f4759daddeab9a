"""Pure decisions (sans-IO): no clock, no randomness, no thread, no file. Time and draws are arguments."""
