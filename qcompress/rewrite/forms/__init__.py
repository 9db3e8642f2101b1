"""The forms a weight can take, one file each."""

from qcompress.rewrite.context import Writer
from qcompress.rewrite.forms.dynamic import write_dynamic
from qcompress.rewrite.forms.folded import write_folded
from qcompress.rewrite.forms.gathered import write_gathered
from qcompress.rewrite.forms.static import write_static
from qcompress.rewrite.forms.weight_only import write_weight_only
from qcompress.types import Form

FORMS: dict[Form, Writer] = {
    Form.STATIC: write_static,
    Form.DYNAMIC: write_dynamic,
    Form.WEIGHT_ONLY: write_weight_only,
    Form.FOLDED: write_folded,
    Form.GATHERED: write_gathered,
}
"""Form -> what writes it."""
