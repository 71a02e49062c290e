"""Layouts: how folders of images, of whatever origin, say which prompt each image is of."""
