"""The API pages of `make docs` are rendered, one for each module."""

from pathlib import Path

from docs import api


def test_every_module_has_a_page(tmp_path: Path) -> None:
    api.write(tmp_path)
    pages = {".".join(page.relative_to(tmp_path).with_suffix("").parts) for page in tmp_path.rglob("*.html")}
    assert set(api.modules()) <= pages and len(api.modules()) > 60
    assert not [name for name in pages if name.rpartition(".")[2].startswith("sample")]
    page = (tmp_path / "ray_distill" / "types" / "network.html").read_text()
    assert "class" in page and "Denoiser" in page and "A network behind its adapter" in page
    assert (tmp_path / "index.html").is_file()
