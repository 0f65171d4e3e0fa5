"""How much loss, in nats, each token, head and MLP unit is worth."""
