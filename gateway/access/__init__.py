"""Who may do what: roles, policies on attributes, and the decision."""
