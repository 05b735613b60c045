"""Models: what they take and give, where they are kept, how they are verified, run and explained."""
