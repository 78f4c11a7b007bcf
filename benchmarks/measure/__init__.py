"""What the questions share: whom to ask, how to ask, and how to make figures of what came when."""
