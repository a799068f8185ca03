// The page begins here.
import { render } from "preact";
import { tellActivity } from "./activity.js";
import { watchCluster } from "./cluster-store.js";
import { refreshHistory } from "./history.js";
import { html } from "./html.js";
import { App } from "./views/app.js";

const root = /** @type {Element} */ (document.getElementById("app"));
render(html`<${App} />`, root);
watchCluster();
tellActivity();
refreshHistory();
