"""Stand-ins for services that a test cannot have for itself, each spoken to by that service's own client."""
