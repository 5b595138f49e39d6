"""What the cells of a study say together: scaling, learning, time to quality."""
