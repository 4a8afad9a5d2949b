"""Image classification: generated digits, and MNIST and similar data sets from files."""
