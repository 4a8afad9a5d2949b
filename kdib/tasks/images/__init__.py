"""Tasks on images: their data, transforms and corruptions."""
