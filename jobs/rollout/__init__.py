"""The one controller of model routing: from commands and the registry's champions to desired state."""
