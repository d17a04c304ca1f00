"""The instructions of the TIU, the engine that computes: their bit tables.

Rows read `name@bit:width`. Short forms differ from one instruction to the next; the long forms share one layout of
1024 bits. Bits no row names are reserved. Source: the register tables of the vendor's public disassembler; every
short form in use was executed on its chip model.
"""

from enum import IntEnum

from tpu_deploy.codegen.isa import operations
from tpu_deploy.codegen.isa.instruction import Instruction, rows

_HEADER = "cmd_short@0:1 cmd_id@1:20 cmd_id_dep@21:20 tsk_typ@41:4 tsk_eu_typ@45:5"

# A long form computes in the lanes of tsk_lane_num alone: all 64 bits set for all lanes.
_LONG = """
    eu_half_en@50:1 tsk_opd_num@51:2 pad_mode@53:2 cmd_id_en@55:4 pwr_step@59:4 intr_en@63:1 res_add@64:1 relu@65:1
    left_tran@66:1 kernel_rotate@68:1 opd0_sign@69:1 opd1_sign@70:1 opd2_sign@71:1 res0_prec@72:3 opd0_prec@75:3
    opd1_prec@78:3 opd2_prec@81:3 opd0_const@84:1 opd1_const@85:1 opd2_const@86:1 res0_str@87:3 opd0_str@90:3
    opd1_str@93:3 opd2_str@96:3 res_add_sign@99:1 opd3_const@126:1 opd0_x_ins0@128:4 opd0_y_ins0@132:4
    opd1_x_ins0@136:4 opd1_y_ins0@140:4 opd0_up_pad@144:4 opd0_dn_pad@148:4 opd0_lf_pad@152:4 opd0_rt_pad@156:4
    res_op_x_str@160:4 res_op_y_str@164:4 res0_h_shift@168:4 res0_w_shift@172:4 opd0_h_shift@176:4
    opd0_w_shift@180:4 opd1_h_shift@184:4 opd1_w_shift@188:4 tsk_lane_num@192:64 res0_n@256:16 res0_c@272:16
    res0_h@288:16 res0_w@304:16 opd0_n@320:16 opd0_c@336:16 opd0_h@352:16 opd0_w@368:16 opd1_n@384:16 opd1_c@400:16
    opd1_h@416:16 opd1_w@432:16 res0_n_str@448:16 res0_c_str@464:16 opd0_n_str@480:16 opd0_c_str@496:16
    opd1_n_str@512:16 opd1_c_str@528:16 opd2_n_str@544:16 opd2_c_str@560:16 res0_addr@576:32 opd0_addr@608:32
    opd1_addr@640:32 opd2_addr@672:32 res0_h_str@704:32 res0_w_str@736:32 opd0_h_str@768:32 opd0_w_str@800:32
    opd1_h_str@832:32 opd1_w_str@864:32 opd2_h_str@896:32 opd2_w_str@928:32 res1_addr@960:32 opd3_addr@992:32
"""

_SHORT = {
    "sCONV": """
        opd0_sign@50:1 opd1_sign@51:1 opd2_sign@52:1 pad_mode@53:2 cmd_id_en@55:4 pwr_step@59:4 res_add@63:1
        kernel_rotate@64:1 res0_prec@65:3 opd0_prec@68:3 opd1_const@71:1 opd2_const@72:1 opd0_up_pad@73:4
        opd0_dn_pad@77:4 opd0_lf_pad@81:4 opd0_rt_pad@85:4 res_op_x_str@89:4 res_op_y_str@93:4 opd3_const@97:1
        opd0_str@98:3 res0_addr@101:26 intr_en@127:1 opd0_x_ins0@128:4 opd0_y_ins0@132:4 opd1_x_ins0@136:4
        opd1_y_ins0@140:4 opd0_n_str@144:16 res0_n@160:16 res0_c@176:16 res0_h@192:16 res0_w@208:16 opd0_c@224:16
        opd0_h@240:16 opd0_w@256:16 opd1_h@272:16 opd1_w@288:16 opd0_c_str@304:16 opd0_addr@320:32 opd1_addr@352:32
        opd2_addr@384:32 res1_addr@416:32 opd3_addr@448:32 opd0_h_str@480:16 opd0_w_str@496:16
    """,
    "sPorD": """
        kernel_rotate@50:1 opd0_sign@51:1 opd1_sign@52:1 pad_mode@53:2 cmd_id_en@55:4 pwr_step@59:4 opd1_const@63:1
        opd2_const@64:1 opd3_const@65:1 res0_prec@66:3 opd0_prec@69:3 opd0_x_ins0@72:4 opd0_y_ins0@76:4 opd1_x_ins0@80:4
        opd1_y_ins0@84:4 opd0_up_pad@88:4 opd0_dn_pad@92:4 opd0_lf_pad@96:4 opd0_rt_pad@100:4 res_op_x_str@104:4
        res_op_y_str@108:4 opd2_n_str@112:3 opd2_sign@126:1 intr_en@127:1 res0_n@128:16 res0_c@144:16 res0_h@160:16
        res0_w@176:16 opd0_h@192:16 opd0_w@208:16 opd1_h@224:16 opd1_w@240:16 res0_addr@256:32 opd0_addr@288:32
        opd1_addr@320:32 opd2_addr@352:32 res1_addr@384:32 opd3_addr@416:32
    """,
    "sMM": """
        res_add@50:1 left_tran@51:1 opd0_const@52:1 opd2_const@53:1 cmd_id_en@55:4 pwr_step@59:4 intr_en@63:1
        opd0_sign@64:1 opd1_sign@65:1 opd2_sign@66:1 res0_prec@67:3 opd0_prec@70:3 opd2_n_str@73:3 res0_c@112:16
        res0_w@128:16 opd0_n@144:16 opd0_c@160:16 opd0_w@176:16 opd1_w@208:16 res0_addr@224:32 opd0_addr@256:32
        opd1_addr@288:32 opd2_addr@320:32 opd3_addr@352:32
    """,
    "sMM2": """
        opd0_sign@50:1 opd1_sign@51:1 res0_prec@52:3 cmd_id_en@55:4 pwr_step@59:4 opd2_const@63:1 res0_c@64:16
        res0_w@80:16 opd1_c@96:16 opd1_w@112:16 opd0_prec@128:3 opd0_const@131:1 opd1_const@132:1 res_add@133:1
        res0_addr@134:25 intr_en@159:1 opd0_addr@160:32 opd1_addr@192:32 opd2_addr@224:32
    """,
    "sAR": """
        opd0_const@50:1 opd1_const@51:1 opd2_const@52:1 tsk_opd_num@53:2 cmd_id_en@55:4 pwr_step@59:4 intr_en@63:1
        res0_prec@64:3 opd0_prec@67:3 opd1_prec@70:3 opd2_prec@73:3 opd0_sign@76:1 opd1_sign@77:1 res0_str@78:3
        opd0_str@81:3 opd1_str@84:3 opd2_n_str@87:3 res0_n@96:16 res0_c@112:16 res0_h@128:16 res0_w@144:16
        res0_addr@160:32 opd0_addr@192:32 opd1_addr@224:32 opd2_addr@256:32 res0_n_str@288:16 res0_c_str@304:16
        opd0_n_str@320:16 opd0_c_str@336:16 opd1_n_str@352:16 opd1_c_str@368:16 res0_h_str@384:20 res0_w_str@404:20
        opd0_h_str@424:20 opd2_sign@444:1 opd0_w_str@448:20 opd1_h_str@468:20 opd1_w_str@488:20
    """,
    "sRQ_sDQ": """
        opd0_sign@50:1 opd2_sign@51:1 res0_prec@52:3 cmd_id_en@55:4 pwr_step@59:4 opd1_const@63:1 opd0_prec@64:3
        opd2_n_str@67:6 res0_addr@73:27 opd0_addr@100:27 intr_en@127:1 res0_n@128:16 res0_c@144:16 res0_h@160:16
        res0_w@176:16 opd1_addr@192:32 opd2_addr@224:32
    """,
    "sTRANS_sBC": """
        res0_prec@50:3 cmd_id_en@55:4 pwr_step@59:4 intr_en@63:1 res0_n@64:16 res0_c@80:16 res0_h@96:16 res0_w@112:16
        opd0_c@128:16 opd0_w@144:16 res0_addr@192:32 opd0_addr@224:32
    """,
    "sSG": """
        opd3_const@50:1 intr_en@51:1 opd0_str@52:3 cmd_id_en@55:4 pwr_step@59:4 opd2_const@63:1 res0_n@64:16
        res0_c@80:16 res0_h@96:16 res0_w@112:16 opd0_h@128:16 opd0_w@144:16 opd1_c@160:16 opd1_w@176:16 res0_prec@192:3
        res0_addr@195:29 opd0_prec@224:3 opd0_addr@227:29 opd1_prec@256:3 opd1_addr@259:29 opd2_addr@288:32
        res1_addr@320:32 opd3_addr@352:32
    """,
    "sSGL": """
        opd3_const@53:1 intr_en@54:1 cmd_id_en@55:4 pwr_step@59:4 opd2_const@63:1 res0_prec@64:3 opd1_prec@67:3
        opd0_str@70:3 res0_n@80:16 res0_c@96:16 res0_h@112:16 res0_w@128:16 opd0_h@144:16 res0_addr@160:32
        opd0_addr@192:32 opd1_addr@224:32 opd2_addr@256:32 res1_addr@288:32
    """,
    "sSFU": """
        cmd_id_en@55:4 pwr_step@59:4 intr_en@63:1 res0_prec@64:3 opd0_prec@67:3 opd2_n_str@70:2 res0_n@80:16
        res0_c@96:16 res0_h@112:16 res0_w@128:16 opd1_n@144:16 res0_addr@160:32 opd0_addr@192:32 opd1_addr@224:32
    """,
    "sLIN": """
        opd1_const@50:1 opd2_const@51:1 res0_prec@52:3 cmd_id_en@55:4 pwr_step@59:4 intr_en@63:1 res0_n@64:16
        res0_c@80:16 res0_h@96:16 res0_w@112:16 res0_addr@128:32 opd0_addr@160:32 opd1_addr@192:32 opd2_addr@224:32
    """,
    "sCMP": """
        opd0_const@50:1 opd1_const@51:1 opd2_const@52:1 opd3_const@53:1 cmd_id_en@55:4 pwr_step@59:4 intr_en@63:1
        opd0_prec@64:3 opd2_prec@67:3 opd0_str@70:3 opd1_str@73:3 opd0_sign@127:1 res0_n@128:16 res0_c@144:16
        res0_h@160:16 res0_w@176:16 res0_addr@192:32 res1_addr@224:32 opd0_addr@256:32 opd1_addr@288:32 opd2_addr@320:32
        opd3_addr@352:32
    """,
    "sVC": """
        opd0_sign@50:1 opd1_sign@51:1 opd2_n_str@52:3 cmd_id_en@55:4 pwr_step@59:4 intr_en@63:1 res0_prec@64:3
        opd0_prec@67:3 opd1_prec@70:3 res0_addr@73:32 opd0_addr@128:32 res0_c@176:16 res0_w@192:16 opd0_c@208:16
        opd0_w@224:16 opd1_w@240:16 opd1_addr@256:32 opd2_addr@288:32
    """,
}

# No header: no identifier, no dependency, and bit 0 is not cmd_short.
_LAR = """
    tsk_typ@41:4 tsk_eu_typ@45:5
    opd0_w_str@0:1 opd1_w_str@1:1 opd2_const@2:1 res0_prec@3:3 opd0_prec@6:3 opd1_prec@9:3 opd2_n_str@12:3
    opd0_sign@15:1 opd1_sign@16:1 start_tid@17:6 res0_c@23:8 res0_w@31:8 tsk_opd_num@51:2 pwr_step@59:4
    res0_addr@64:16 opd0_addr@80:16 opd1_addr@96:16 opd2_addr@112:16
"""

_SYSID = """
    cmd_id@1:20 cmd_id_dep@21:20 tsk_typ@41:4 tsk_eu_typ@45:5
    cmd_id_en@55:4 pwr_step@59:4 intr_en@63:1 cmd_id_eng1@64:20 cmd_id_eng2@84:20 cmd_id_eng3@104:20
"""

# family: short name, bits of the short form, tsk_typ, operations
_FAMILIES: dict[str, tuple[str, int, int, type[IntEnum]]] = {
    "CONV": ("sCONV", 512, 0, operations.ConvolutionOp),
    "PorD": ("sPorD", 512, 1, operations.PoolOp),
    "MM": ("sMM", 384, 2, operations.MatrixOp),
    "MM2": ("sMM2", 256, 2, operations.Matrix2Op),
    "AR": ("sAR", 512, 3, operations.ArithmeticOp),
    "RQ_DQ": ("sRQ_sDQ", 256, 4, operations.RequantOp),
    "TRANS_BC": ("sTRANS_sBC", 256, 5, operations.TransposeOp),
    "SG": ("sSG", 384, 6, operations.SearchGatherOp),
    "SGL": ("sSGL", 384, 6, operations.LineGatherOp),
    "SFU": ("sSFU", 256, 9, operations.SfuOp),
    "LIN": ("sLIN", 256, 10, operations.LinearOp),
    "CMP": ("sCMP", 384, 13, operations.CompareOp),
    "VC": ("sVC", 384, 14, operations.VectorOp),
}


def _instructions() -> tuple[Instruction, ...]:
    found = [
        Instruction("LAR", "LAR", "TIU", 128, rows(_LAR), {"tsk_typ": 7}, operations.ArithmeticOp),
        Instruction("SYSID", "SYSID", "TIU", 128, rows(_SYSID), {"tsk_typ": 15}, operations.SystemOp),
    ]
    for family, (short, bits, typ, ops) in _FAMILIES.items():
        fields = rows(_HEADER + _SHORT[short])
        found.append(Instruction(short, family, "TIU", bits, fields, {"cmd_short": 1, "tsk_typ": typ}, ops))
        fields = rows(_HEADER + _LONG)
        found.append(Instruction(family, family, "TIU", 1024, fields, {"cmd_short": 0, "tsk_typ": typ}, ops))
    return tuple(found)


TIU_INSTRUCTIONS = _instructions()
