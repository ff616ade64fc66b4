"""A cohort's variants (VCF, BCF) over regions of a genome: the distinct haplotypes of each region, and who carries them."""
