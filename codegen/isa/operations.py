"""What an instruction of each family may be told to do: the values of `tsk_eu_typ` and `cmd_special_function`.

Source: the instruction names the vendor's public disassembler prints, and trials on its chip model.
"""

from enum import IntEnum


class ConvolutionOp(IntEnum):
    """CONV."""

    NORMAL = 0
    WRQ = 1
    WRQ_RELU = 2


class PoolOp(IntEnum):
    """PorD: pooling or depthwise convolution."""

    DEPTHWISE = 0
    AVERAGE = 1
    DEPTHWISE_RELU = 2
    MAX = 4
    ROI_DEPTHWISE = 5
    ROI_AVERAGE = 6
    ROI_MAX = 7


class MatrixOp(IntEnum):
    """MM: operands in matrix layout."""

    NORMAL = 1
    WRQ = 2
    WRQ_RELU = 3


class Matrix2Op(IntEnum):
    """MM2: rows on lanes; the letters say whether left and right operands are stored transposed."""

    NN = 4
    NT = 5
    TT = 6


class ArithmeticOp(IntEnum):
    """AR and LAR; ADDS, SUBS and MULS saturate."""

    MUL = 0
    NOT = 1
    ADD = 2
    SUB = 3
    MAX = 4
    MIN = 5
    LOGIC_SHIFT = 6
    AND = 7
    OR = 8
    XOR = 9
    SELECT_GREATER = 10
    SELECT_EQUAL = 11
    DIV = 12
    SELECT_LESS = 13
    CAST = 14
    ADDS = 15
    SUBS = 16
    MAC = 18
    COPY = 19
    MULS = 20
    ARITHMETIC_SHIFT = 21
    CIRCULAR_SHIFT = 22
    MUL_DOUBLE_HIGH = 23
    ELEMENT_INDEX = 24
    LANE_INDEX = 25
    ABS = 26
    ABS_DIFFERENCE = 27
    COPY_MB = 28
    FIND_FIRST_ONE = 29
    FIND_FIRST_ZERO = 30


class RequantOp(IntEnum):
    """RQ_DQ: RQ_INT multiplies by integers and shifts, RQ_FLOAT and DQ_FLOAT multiply by a float32 scale."""

    RQ_FLOAT = 0
    RQ_INT = 1
    RQ_2 = 2
    DQ_FLOAT = 3
    DQ_INT = 4
    DQ_2 = 5


class TransposeOp(IntEnum):
    """TRANS_BC: transpositions of channel and width, copies and broadcasts between lanes or from static memory."""

    CW = 0
    WC = 1
    LANE_COPY = 2
    LANE_BROADCAST = 3
    STATIC_BROADCAST = 4
    STATIC_DISTRIBUTE = 5


class SearchGatherOp(IntEnum):
    """SG: one index list for all channels (PL) or one a channel (PE)."""

    PL_GATHER = 0
    PL_GATHER_2D = 1
    PL_GATHER_RECTANGLE = 2
    PL_SCATTER = 3
    PL_SCATTER_2D = 4
    PE_GATHER = 5
    PE_SCATTER = 6
    PE_GATHER_M = 7
    PE_MASK_SELECT = 8
    PE_NONZERO = 9
    PE_SCATTER_PP = 10
    PL_GATHER_PER_W = 11
    PL_SCATTER_PER_W = 12
    PE_GATHER_HZD = 13
    PE_SCATTER_HZD = 14
    PE_MASK_SELECT_HZD = 15
    PE_NONZERO_HZD = 16


class LineGatherOp(IntEnum):
    """SGL: whole rows, line-aligned."""

    GATHER_LINE = 17
    SCATTER_LINE = 18


class SfuOp(IntEnum):
    """SFU: special functions."""

    TAYLOR_4X = 12
    TAYLOR = 13
    NORMALIZE = 15
    RSQRT = 17


class LinearOp(IntEnum):
    """LIN: two float32 steps with per-channel operands."""

    MAC = 1
    SQUARE_SUM = 20
    SQUARE_DIFFERENCE = 21


class CompareOp(IntEnum):
    """CMP: a comparison that selects, alone or with the maximum or minimum as a second result."""

    MAX_AND_SELECT = 22
    SELECT_GREATER = 23
    SELECT_EQUAL = 24
    MIN_AND_SELECT = 25
    SELECT_LESS = 26


class VectorOp(IntEnum):
    """VC: every element of one vector with every element of another."""

    MUL = 0
    ADD = 2
    SUB = 3
    MAX = 4
    MIN = 5
    AND = 7
    OR = 8
    XOR = 9
    SELECT_GREATER = 10
    SELECT_EQUAL = 11
    DIV = 12
    SELECT_LESS = 13
    ADDS = 15
    SUBS = 16
    MULS = 20
    MUL_DOUBLE_HIGH = 23


class SystemOp(IntEnum):
    """SYSID: commands to the TIU queue itself; END closes it."""

    INTERRUPT_BARRIER = 0
    SPB = 1
    SWR = 2
    SWR_FROM_LOCAL = 3
    SWR_COLLECT_FROM_LOCAL = 4
    DATA_BARRIER = 5
    NOP = 30
    END = 31


class DmaTensorOp(IntEnum):
    """DMA_tensor: `cmd_special_function`."""

    COPY = 0
    TRANSPOSE = 1
    COLLECT = 2
    BROADCAST = 3
    DISTRIBUTE = 4
    FOUR_BANK_COPY = 5
    FOUR_BANK_BROADCAST = 6


class DmaMatrixOp(IntEnum):
    """DMA_matrix: `cmd_special_function`."""

    COPY = 0
    TRANSPOSE = 1


class DmaGeneralOp(IntEnum):
    """DMA_general: `cmd_special_function`."""

    COPY = 0
    BROADCAST = 1


class DmaPlainOp(IntEnum):
    """The GDMA instructions whose `cmd_special_function` is always 0."""

    COPY = 0


class DmaSystemOp(IntEnum):
    """sDMA_sys: commands to the GDMA queue itself; END closes it."""

    END = 0
    NOP = 1
