def write(folder, load): pass
