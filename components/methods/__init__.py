"""Training objectives: `METHODS[name](**fields).build(...)` -> a module with `loss(model, batch, threat, rng)`."""

from components.methods.adr import Adr
from components.methods.cktat import Cktat
from components.methods.ensemble_at import EnsembleAt
from components.methods.fgsm_mep import FgsmMep
from components.methods.fgsm_rs import FgsmRs
from components.methods.free_at import FreeAt
from components.methods.gradalign import GradAlign
from components.methods.hat import Hat
from components.methods.lbgat import Lbgat
from components.methods.mart import Mart
from components.methods.mixed import Mixed
from components.methods.n_fgsm import NFgsm
from components.methods.parts.contract import Fields
from components.methods.pgd_at import PgdAt
from components.methods.standard import Standard
from components.methods.trades import Trades

METHODS: dict[str, type[Fields]] = {
    "standard": Standard,
    "pgd_at": PgdAt,
    "trades": Trades,
    "fgsm_rs": FgsmRs,
    "n_fgsm": NFgsm,
    "free_at": FreeAt,
    "gradalign": GradAlign,
    "fgsm_mep": FgsmMep,
    "mixed": Mixed,
    "ensemble_at": EnsembleAt,
    "mart": Mart,
    "lbgat": Lbgat,
    "hat": Hat,
    "cktat": Cktat,
    "adr": Adr,
}
