"""FSM: fuses words and frames, decodes several candidate tubes, and matches and contrasts them with the annotated
one."""
