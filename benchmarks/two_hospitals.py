"""What a real second hospital should send, and how to tell beforehand (docs/studies/two_hospitals.md).

    make bench ONLY=two_hospitals DATA=chest_xray NIH=nih SAKHA=sakha_tb WEIGHTS=weights \
        WORK=two_hospitals PICTURES=docs/studies

`docs/data.md` says where the three sets are from. NIH's and Sakha's folders have two class folders
each. Gifts that `WORK` lacks are made there, and an arm whose scores are in `PICTURES` is not
trained again.

Plan, committed before the first run:

- Two real hospitals: A = Kermany's children (1,200 patients), B = NIH's adults; and A = NIH's adults
  (300 patients), B = Kermany's children. Beside them, within one hospital: A = 300 patients of NIH
  or 170 of Sakha-TB, B = the others of the same set. Classes: no finding against pneumonia;
  Sakha-TB: normal against tuberculosis.
- B has 25, 50, 100 or 200 patients (within one hospital, up to 100) in ten random draws with the
  shares of the classes. 24 patients of B choose the epoch in all draws, and all others are scored,
  but 150, who are the arm "150 other patients of B". Draws overlap, so the interval over
  draws is about these patients of B.
- Two networks: a linear head on a frozen MobileNetV2 at 128 px (lr .003), and a CNN of three layers
  at 32 px from random weights (lr .001; 25 and 100 patients, five draws, two hospitals only). 27
  epochs of 8 steps with 32 real images, in every arm.
- Extra images of a step: four per real one (CNN: two), from 1,000 of a GAN's, or from half as many of
  A's real images as A has, with weights of .5 and .1.
- Arms: B alone; augmented (two affine views); repeated; 150 other patients of B; A's GAN of 64 px, and
  A's GAN with `features`, both with their classes and with soft labels of A's classifier; statistics
  of A's features; A's real images; A's classifier as it is and as a start; for the frozen network,
  A's fine-tuned network (all layers, 96 px, 8 epochs) as B's encoder.
- GANs: 4,000 steps at Kermany's, 2,500 at NIH's, 1,500 at Sakha's.
- Read-out: mean gain over B alone with its standard error and 95 % interval over draws. Nothing is
  chosen by a score. By hand, the same gains were measured before (`BY_HAND`): at least 20 of 24
  should be within two standard errors of both.
- How to tell beforehand: with B's training patients alone, the AUROC of A's classifier, the share of
  their images that it calls by their class, and the distance of A's class means from B's, in
  standard deviations of A's features. Each is a threshold between gain and harm, chosen on Kermany
  -> NIH and on halves of NIH, and tested on NIH -> Kermany and on halves of Sakha-TB; a rule holds if
  it predicts the sign of >= 80 % of the tested cells. A cell is a gift at a number of patients.
"""
