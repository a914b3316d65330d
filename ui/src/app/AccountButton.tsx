import { Button, Menu } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useTranslation } from "react-i18next";
import { isUnauthorized } from "../api/error";
import { logout } from "../api/mutations";
import { queries } from "../api/queries";
import { drafts } from "../features/policy/hooks/drafts";

export function AccountButton() {
  const { t } = useTranslation();
  const queryClient = useQueryClient();
  const session = useQuery(queries.session());
  const leave = useMutation({
    mutationFn: logout,
    onSettled: (_data, error) => {
      if (!error || isUnauthorized(error)) {
        drafts.clear();
        queryClient.setQueryData(queries.session().queryKey, null);
      }
    },
  });
  return (
    <Menu position="bottom-end" withinPortal={false}>
      <Menu.Target>
        <Button variant="subtle" color="gray" size="compact-md" data-testid="account">
          {session.data?.user ?? "…"}
        </Button>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Item onClick={() => leave.mutate()} data-testid="logout">
          {t("nav.logout")}
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}
