"""How fast our nets are where they are deployed, beside their peers: `resnestkit benchmark`.

==============  =================================================================================
`contenders`    who runs, in what precision, and how each is opened; imports no torch
`subjects`      nets and checkpoints, and the same nets in timm
`making`        the files that contend: our deploy form, the peers' exports, both in int8
`floors`        the rate of a plain product of matrices in each precision, in the same runtime
`race`          rounds in which all take turns
`memory`        the peak of a process that does nothing but run one of them
`results`       the numbers, what follows from them, and JSON
`plot`          speed against cost
`running`       all of it, for the command line
==============  =================================================================================
"""
