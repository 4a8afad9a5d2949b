"""Subject-verb agreement: is the verb singular or plural?"""
