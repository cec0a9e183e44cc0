"""Do GAN-made chest X-rays help a pneumonia classifier, and in which mix with real ones?"""
