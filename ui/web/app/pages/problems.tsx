import "./problems.css";

import { Notice, Seal } from "../components/ui";

export function NotFoundPage() {
  return (
    <main className="problem">
      <Seal size={32} />
      <h1>There is no such page</h1>
      <a href="/">Go to the overview</a>
    </main>
  );
}

export function FailurePage({ error }: { error: unknown }) {
  const cause = error instanceof Error ? error.message : "an unknown failure";
  return (
    <main className="problem">
      <Seal size={32} />
      <Notice tone="deny" title="The dashboard could not be shown">
        {`${cause}. Check that signet-ui runs, then reload this page.`}
      </Notice>
    </main>
  );
}
