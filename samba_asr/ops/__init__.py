"""Pure functions on tensors.  Each op is a folder: `naive` (the definition), faster backends, and `dispatch`."""
