"""Who is believed here, and what a guest may be made of: keys, signatures, the policy, the plan that is held."""
