"""Videos of coloured shapes with exact annotations, for the demo and the tests."""
