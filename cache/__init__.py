"""The feature cache: samples, frame sampling, feature stores, and the batches that are read from them."""
