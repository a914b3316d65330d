import "@mantine/core/styles.css";
import "./app/theme.gen.css";
import "./app/tokens.css";
import "./app/i18n";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app/App";
import { newQueryClient } from "./app/queryClient";
import { newRouter } from "./app/router";

const queryClient = newQueryClient();
const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <App router={newRouter(queryClient)} queryClient={queryClient} />
    </StrictMode>,
  );
}
