"""The Lua scripts, as package data. `sidecar.scripts` loads them; `lua/README.md` explains them."""
