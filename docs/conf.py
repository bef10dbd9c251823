"Sphinx settings of the site; build_site.py copies this file next to the pages it writes."
project = "interp_kit"
author = "interp_kit contributors"
extensions = ["myst_nb"]
html_theme = "furo"
html_title = "interp_kit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_copyright = html_show_sphinx = False
html_use_index = False
html_theme_options = dict(navigation_with_keys=True)
pygments_style, pygments_dark_style = "friendly", "github-dark"
myst_heading_anchors = 3
myst_links_external_new_tab = False
nb_execution_mode = "off" # what is committed is shown
nb_ipywidgets_js = {} # no script from elsewhere
nb_merge_streams = True
