"""Tasks to train and test on."""
