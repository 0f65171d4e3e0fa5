"""Power samplers behind one protocol, and the integration of power to energy."""
