"""Video files: find the file, choose the stream, number and time the frames, decode in child processes."""
