import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

// In development the API is that of a running signet-ui.
const api = process.env["SIGNET_DASHBOARD"] ?? "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [react()],
  build: {
    target: "es2022",
    // The content security policy allows no data: fonts or scripts.
    assetsInlineLimit: 0,
    sourcemap: false,
    chunkSizeWarningLimit: 900,
    modulePreload: { polyfill: false },
  },
  server: { proxy: { "/api": { target: api, changeOrigin: true } } },
  test: { environment: "jsdom", include: ["app/**/*.test.{ts,tsx}"] },
});
