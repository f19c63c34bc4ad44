"""FSM: several candidate tubes, matched and contrasted with the annotated one, after words and frames have met."""
