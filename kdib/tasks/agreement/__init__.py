"""Subject-verb agreement: which number does the verb take?"""
