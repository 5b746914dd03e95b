"""What is true of every model that this pipeline makes."""

INTENDED = (
    "Research on, and teaching of, the classification of dermoscopic images.",
    (
        "Ordering images for review by somebody who is qualified, and comparing methods on the "
        "same images."
    ),
    "Input: one dermoscopic image of one skin lesion, taken through a dermatoscope.",
)
OUT_OF_SCOPE = (
    (
        "Diagnosis, triage or treatment of a patient. It is no medical device, and no study of "
        "its use in care has been made."
    ),
    "Ruling a malignant lesion out: a low score is no reason to leave a lesion alone.",
    (
        "Clinical (macroscopic) photographs, whole-body photographs, images of several lesions, "
        "nails or mucosa."
    ),
    (
        "Diagnoses outside its seven classes: it cannot say that a lesion is none of them, and "
        "will give one of them a high probability nonetheless."
    ),
    (
        "Populations, devices and prevalences unlike those of the training data, before it was "
        "evaluated there and its threshold chosen anew."
    ),
)
FACTORS = (
    (
        "Groups: sex, age, body site and skin tone, as far as the data record or allow to "
        "estimate them."
    ),
    (
        "Instrument and environment: dermatoscope, polarisation, immersion fluid, lighting, "
        "focus, compression. They are not recorded by image; sharpness and brightness slices and "
        "the corruption tests stand in for them."
    ),
    "How the diagnosis was confirmed.",
    (
        "The image is the only input: metadata do not enter the scores. Where metadata are "
        "missing, the images form the slice “unknown”; images without a class of the seven are "
        "left out."
    ),
)
METRICS = (
    (
        "All figures of performance are of held-out lesions. Ends in brackets are those of a 95 % "
        "interval from a bootstrap over lesions, since images of one lesion are not independent. "
        "Figures without brackets have no interval: ROC AUC by corruption and strength in this "
        "card, the checks of explanations, size and speed; in the report also error by coverage "
        "and net benefit."
    ),
    (
        "The interval of an ECE is not made of percentiles alone: chance only raises an ECE, so "
        "the lower end lies as far below the figure as the upper percentile lies above it, but "
        "not below 0. Where the true ECE is almost 0, the interval often lies too high."
    ),
    (
        "ROC AUC and average precision judge the order of the scores; sensitivity, specificity, "
        "PPV and NPV the decisions at the threshold; ECE and Brier score whether p_malignant can "
        "be read as a probability."
    ),
    (
        "Where a published model is there to compare with, both score the same test images: "
        "the interval of a difference resamples the same lesions for both, and the p-value of a "
        "difference in ROC AUC is DeLong's. Nothing is corrected for the number of comparisons."
    ),
    (
        "Of each network the epoch with the lowest loss on validation images was kept, of equal "
        "ones the first. Temperature, slopes and offset of p_malignant and thresholds were fitted "
        "on validation images too, class offsets from the numbers of images learned from. Networks "
        "of an ensemble learn from validation images as well, but for a fold that each leaves out "
        "(cross-fitting): for these choices, an image was only scored by networks that had not "
        "learned from it. All other settings were fixed before training, which does not search "
        "for any."
    ),
    (
        "One choice is made on test images: the gate's, whether a model is published. Of several "
        "candidates that were tried on the same test images, the one that passes has figures "
        "that are too good by chance."
    ),
    (
        "PPV, NPV, accuracy and average precision hold for the prevalence of the test set, which "
        "is not that of a clinic."
    ),
    "A figure that is not defined, such as sensitivity without a malignant image, is n/a.",
)
SPLIT = (
    "Images that share a lesion, a patient (where known), their bytes or nearly their pixels are "
    "never divided between training, validation and test; classes are dealt evenly. It is a random "
    "split of one dataset: an internal evaluation, which overstates performance elsewhere."
)
ETHICS = (
    (
        "The images come from public archives. Consent and ethics approval lie with those who "
        "collected them; the pipeline reads no names and keeps only the metadata that the archive"
        " publishes."
    ),
    (
        "A missed melanoma can cost a life, a false alarm an excision: which threshold weighs "
        "them rightly is a clinical decision, for which the report has a decision curve."
    ),
    (
        "People tend to trust a number on a screen: show scores with their limits, and keep a "
        "person responsible."
    ),
    (
        "The groups that the data have few images of are those that errors would burden without "
        "anybody noticing."
    ),
)
SHORTCUTS = (
    "Rulers, coloured stickers, ink marks, gel bubbles, hair and the dark rim of a dermatoscope "
    "occur more often with some classes than with others, and a network can learn them in place of "
    "the lesion. They are not annotated here, so their influence is not measured. Look at the "
    "activation maps of the report's gallery, and at images with and without such marks, before "
    "trusting a score."
)
LIMITS = (
    "Internal evaluation only: other hospitals, devices and populations were not tested.",
    (
        "Retrospective archive images were selected by people; they are neither consecutive nor "
        "representative of a practice."
    ),
    "Rare classes have few test images and wide intervals.",
    "Single images without history, palpation or comparison with the patient's other lesions.",
    "The corruption tests are simulations: real defects of images differ.",
    (
        "Before any use with patients: external evaluation, a prospective study, and the approval"
        " of a competent authority."
    ),
)
LICENCE = (
    "A model learned from images can be bound by their licences. Licences that exclude commercial "
    "use (such as CC BY-NC) may extend to the model: ask the rights holders."
)
CALIBRATION = (
    "Only p_malignant is fitted to observed outcomes. How the malignant and the benign share are "
    "divided among their classes is shifted on purpose, by the weights of the classes in training "
    "and by class offsets, so that rarer classes are found more often: the value of a single class "
    "is a score, no probability, and calibration can raise the cross-entropy of the seven classes."
)
ROBUSTNESS = (
    "Where not all test images are corrupted, whole lesions were drawn at random with a fixed "
    "seed, so that each class keeps its share of the images. Losses are against the same images "
    "uncorrupted."
)
REPORTING = (
    "Which item is answered where: in this card, in the evaluation report beside it, or only by "
    "the authors of a study. Software cannot answer for people."
)

REFERENCES = (
    "Mitchell et al., Model Cards for Model Reporting, FAT* 2019.",
    (
        "Tschandl, Rosendahl and Kittler, The HAM10000 dataset, Scientific Data 5:180161, 2018: "
        "the seven classes."
    ),
    "Guo et al., On Calibration of Modern Neural Networks, ICML 2017: temperature scaling.",
    "Vickers and Elkin, Decision Curve Analysis, Medical Decision Making 26:565-574, 2006.",
    (
        "DeLong, DeLong and Clarke-Pearson, Comparing the Areas under Two or More Correlated "
        "Receiver Operating Characteristic Curves, Biometrics 44:837-845, 1988."
    ),
    "Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018.",
    (
        "Chardon, Cretois and Hourseau, Skin colour typology and suntanning pathways, "
        "International Journal of Cosmetic Science 13:191-208, 1991: the individual typology "
        "angle."
    ),
)
