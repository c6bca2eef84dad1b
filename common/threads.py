"""How threads wait. A script imports this before PyTorch, which reads the setting when it loads."""

import os

# Threads that spin while they wait slow an epoch down twentyfold when another process wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
