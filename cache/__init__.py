"""What every room shares: samples, sampling, the feature store and the batches read from it."""
