import "./login.css";

import { getRouteApi, useRouter } from "@tanstack/react-router";
import { useState } from "react";
import { FieldError, Form, Input, Label, Text, TextField } from "react-aria-components";

import { signIn } from "../api/queries";
import { Seal, TextButton } from "../components/ui";

const route = getRouteApi("/login");

export function LoginPage() {
  const { next } = route.useSearch();
  const router = useRouter();
  const [token, setToken] = useState("");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<string>();

  const submit = async () => {
    setBusy(true);
    setProblem(undefined);
    try {
      await signIn(token.trim());
      router.history.replace(next ?? "/");
    } catch (error) {
      setProblem(error instanceof Error ? error.message : "the dashboard server does not answer");
      setBusy(false);
    }
  };

  return (
    <main className="login">
      <Form
        className="login-form"
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
      >
        <Seal size={40} />
        <h1>Sign in to Signet</h1>
        <TextField
          name="token"
          type="password"
          autoComplete="current-password"
          autoFocus
          isRequired
          isInvalid={problem !== undefined}
          value={token}
          onChange={(value) => {
            setToken(value);
            setProblem(undefined);
          }}
          validationBehavior="aria"
          className="field login-field"
        >
          <Label>Dashboard token</Label>
          <Input />
          <Text slot="description" className="login-help">
            <code>signet demo</code> prints it. Elsewhere it is in the token file of <code>signet-ui</code>.
          </Text>
          <FieldError className="login-error">{problem}</FieldError>
        </TextField>
        <TextButton type="submit" className="primary" isDisabled={busy || token.trim() === ""}>
          {busy ? "Signing in…" : "Sign in"}
        </TextButton>
      </Form>
    </main>
  );
}
