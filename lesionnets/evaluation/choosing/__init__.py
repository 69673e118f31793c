"""What a network is chosen by while it trains, and how it is calibrated after."""
