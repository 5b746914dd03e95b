"""The ISIC archive: a client for it, a server of its API over a folder, and a drawn one."""
