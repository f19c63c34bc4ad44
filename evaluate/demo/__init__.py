"""The first minutes with stvg: a dataset is drawn, extracted, trained on, scored and shown."""
